"""What NVML says of the GPUs of the machine that this runs on: who they are, and how they are, as plain values.

Real GPUs only: where the library (`nvidia-ml-py`, the extra `gpu`) or NVIDIA's driver is absent, `look` says which and
why, and the logical GPUs of the node are a stand-in. What a reading means is `gpu_health`'s to say. Sent to nodes by
value, so only the standard library at import.

A fact that a board or a driver does not tell (a serial number without permission, row remapping before Ampere) is None,
never guessed. Critical events (Xid) are told by a set that the driver fills from the first look on, and kept: one that
came before it is not seen, but what it leaves behind is (pages to retire, rows to remap, a reset that is due).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

MIB = 1 << 20
STAND_IN = "stand-in"
NVML = "nvml"


@dataclass
class GpuWatch:
    """The GPUs of one machine, by one NVML session that stays open. `look` may be called from one thread at a time."""

    _library: Any = None
    _events: Any = None
    _xids: dict[str, list[int]] = field(default_factory=dict)
    _registered: set[str] = field(default_factory=set)

    def look(self) -> dict[str, Any]:
        """`{"source", "detail", "driver", "gpus": [a dict of facts for each, by NVML's index]}`.

        `source` is `nvml`, or `stand-in` where NVML is not here: `detail` says why, and `gpus` is empty.
        """
        try:
            library = self._opened()
        except ImportError:
            return _absent("nvidia-ml-py is not installed: the extra `gpu` has it")
        except _nvml_error() as error:
            return _absent(f"NVML does not answer: {error}")
        try:
            count = library.nvmlDeviceGetCount()
            self._hear(library)
            gpus = [self._gpu(library, index) for index in range(count)]
            driver = library.nvmlSystemGetDriverVersion()
        except library.NVMLError as error:
            self.close()  # a driver that was reloaded answers only a new session
            return _absent(f"NVML does not answer: {error}")
        if not gpus:
            return _absent("NVML sees no GPU")
        return {"source": NVML, "detail": "", "driver": driver, "gpus": gpus}

    def close(self) -> None:
        """Ends the session, so that GPUs can be reset; the next look begins another, which knows of no Xid."""
        library, self._library, self._events = self._library, None, None
        self._xids.clear()
        self._registered.clear()
        if library is not None:
            _told(library, library.nvmlShutdown)

    def _opened(self) -> Any:
        if self._library is None:
            import pynvml  # noqa: PLC0415 - optional

            pynvml.nvmlInit()
            self._library = pynvml
            self._events = _told(pynvml, pynvml.nvmlEventSetCreate)
        return self._library

    def _hear(self, library: Any) -> None:
        """Takes in every critical event since the last look."""
        while self._events is not None:
            try:
                event = library.nvmlEventSetWait_v2(self._events, 0)
            except library.NVMLError:  # a timeout: no more for now
                return
            if event.eventType == library.nvmlEventTypeXidCriticalError:
                uuid = _told(library, library.nvmlDeviceGetUUID, event.device)
                self._xids.setdefault(uuid or "", []).append(int(event.eventData))

    def _gpu(self, library: Any, index: int) -> dict[str, Any]:
        """One GPU's facts. A GPU that is lost answers nothing: `lost` says so."""
        try:
            handle = library.nvmlDeviceGetHandleByIndex(index)
            uuid = library.nvmlDeviceGetUUID(handle)
            self._register(library, handle, uuid)
            facts = {**_identity(library, handle), **_memory(library, handle), **_limits(library, handle)}
            facts |= _links(library, handle)
        except (library.NVMLError_GpuIsLost, library.NVMLError_Unknown, library.NVMLError_ResetRequired) as error:
            return {"index": index, "lost": str(error)}
        return {"index": index, "uuid": uuid, **facts, "xids": self._xids.get(uuid, [])}

    def _register(self, library: Any, handle: Any, uuid: str) -> None:
        if self._events is not None and uuid not in self._registered:
            _told(
                library, library.nvmlDeviceRegisterEvents, handle, library.nvmlEventTypeXidCriticalError, self._events
            )
            self._registered.add(uuid)


def _absent(why: str) -> dict[str, Any]:
    return {"source": STAND_IN, "detail": why, "driver": "", "gpus": []}


def _nvml_error() -> type[Exception]:
    import pynvml  # noqa: PLC0415 - whoever asks has imported it

    return pynvml.NVMLError  # type: ignore[no-any-return]


def _told(library: Any, call: Callable[..., Any], *arguments: Any) -> Any:
    """The answer; None where this board or driver has none. Raises what says that the GPU itself is gone."""
    try:
        return call(*arguments)
    except (library.NVMLError_GpuIsLost, library.NVMLError_ResetRequired):
        raise
    except library.NVMLError:
        return None


def _identity(library: Any, handle: Any) -> dict[str, Any]:
    memory = _told(library, library.nvmlDeviceGetMemoryInfo, handle)
    pci = _told(library, library.nvmlDeviceGetPciInfo, handle)
    return {
        "name": _told(library, library.nvmlDeviceGetName, handle),
        "serial": _told(library, library.nvmlDeviceGetSerial, handle),
        "board": _told(library, library.nvmlDeviceGetBoardPartNumber, handle),
        "vbios": _told(library, library.nvmlDeviceGetVbiosVersion, handle),
        "pci": None if pci is None else _text(pci.busId),
        "memory_mib": None if memory is None else memory.total // MIB,
    }


def _memory(library: Any, handle: Any) -> dict[str, Any]:
    """ECC since the driver was loaded, and what it led to: pages to retire (before Ampere), rows to remap (since)."""
    kind, counter = library.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, library.NVML_VOLATILE_ECC
    rows = _told(library, library.nvmlDeviceGetRemappedRows, handle)
    _, _, pending, failed = rows or (None, None, None, None)
    return {
        "uncorrected": _told(library, library.nvmlDeviceGetTotalEccErrors, handle, kind, counter),
        "pages_pending": _told(library, library.nvmlDeviceGetRetiredPagesPendingStatus, handle),
        "rows_pending": pending,
        "rows_failed": failed,
    }


def _limits(library: Any, handle: Any) -> dict[str, Any]:
    """Why clocks are lower than they could be, heat and power (milliwatts), and the recovery that the driver asks."""
    reasons = _told(library, library.nvmlDeviceGetCurrentClocksEventReasons, handle)
    if reasons is None:  # a driver from before it was called so
        reasons = _told(library, library.nvmlDeviceGetCurrentClocksThrottleReasons, handle)
    asked = _told(library, library.nvmlDeviceGetFieldValues, handle, [library.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION])
    answered = asked is not None and asked[0].nvmlReturn == library.NVML_SUCCESS
    return {
        "clock_reasons": reasons,
        "temperature_c": _told(library, library.nvmlDeviceGetTemperature, handle, library.NVML_TEMPERATURE_GPU),
        "power_limit_mw": _told(library, library.nvmlDeviceGetEnforcedPowerLimit, handle),
        "power_default_mw": _told(library, library.nvmlDeviceGetPowerManagementDefaultLimit, handle),
        "recovery": int(asked[0].value.uiVal) if answered else None,
    }


def _links(library: Any, handle: Any) -> dict[str, Any]:
    """NVLinks that are there and up, and how this GPU stands in the fabric outside of its node."""
    states = [_told(library, library.nvmlDeviceGetNvLinkState, handle, k) for k in range(library.NVML_NVLINK_MAX_LINKS)]
    info = library.c_nvmlGpuFabricInfo_v2_t()
    fabric = _told(library, lambda: (library.nvmlDeviceGetGpuFabricInfoV(handle, ctypes.byref(info)), info)[1])
    return {
        "links_up": sum(1 for state in states if state == library.NVML_FEATURE_ENABLED),
        "fabric_state": None if fabric is None else int(fabric.state),
        "fabric_status": None if fabric is None else int(fabric.status),
        "fabric_health": None if fabric is None else int(fabric.healthMask),
    }


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)

/* A machine with two H100s. The second one's NVLink 1 is down, it is hot, and it met Xid 79 as soon as somebody listened.
 * `GONE` in the environment: the driver was unloaded. Layouts and numbers are those of nvml.h. */
#include <stdlib.h>
#include <string.h>

typedef struct { char legacy[16]; unsigned domain, bus, device, id, subsystem; char busId[32]; } Pci;
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned version; unsigned char cluster[16]; int status; unsigned clique; unsigned char state; unsigned health; } Fabric;
typedef struct { void *device; unsigned long long type, data; unsigned gpu, compute; } Event;
typedef struct { unsigned field, scope; long long at, latency; unsigned type, result; union { double d; unsigned u; long long l; } value; } Field;

enum { OK = 0, NOT_SUPPORTED = 3, NOT_LOADED = 9, TIMEOUT = 10 };
static char gpus[2];
static int told;
#define SECOND(handle) ((char *)(handle) == gpus + 1)
#define TEXT(name, first, second) \
  int name(void *h, char *text, unsigned size) { strncpy(text, SECOND(h) ? second : first, size); return OK; }

int nvmlInitWithFlags(unsigned flags) { return getenv("GONE") ? NOT_LOADED : OK; }
int nvmlInit_v2(void) { return getenv("GONE") ? NOT_LOADED : OK; }
int nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(int code) { return code == NOT_LOADED ? "Driver Not Loaded" : "Failed"; }
int nvmlSystemGetDriverVersion(char *text, unsigned size) { strncpy(text, "580.1", size); return OK; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 2; return OK; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) { *handle = gpus + index; return OK; }
TEXT(nvmlDeviceGetUUID, "GPU-one", "GPU-two")
TEXT(nvmlDeviceGetName, "NVIDIA H100 80GB HBM3", "NVIDIA H100 80GB HBM3")
TEXT(nvmlDeviceGetSerial, "1650001", "1650002")
TEXT(nvmlDeviceGetBoardPartNumber, "900-1", "900-1")
TEXT(nvmlDeviceGetVbiosVersion, "96.00", "96.00")
int nvmlDeviceGetPciInfo_v3(void *h, Pci *pci) { strcpy(pci->busId, SECOND(h) ? "00000000:02" : "00000000:01"); return OK; }
int nvmlDeviceGetMemoryInfo(void *h, Memory *memory) { memory->total = 81559ULL << 20; return OK; }
int nvmlDeviceGetTotalEccErrors(void *h, int kind, int counter, unsigned long long *count) { *count = kind == 1 && counter == 0 ? 0 : 9; return OK; }
int nvmlDeviceGetRetiredPagesPendingStatus(void *h, int *pending) { return NOT_SUPPORTED; }
int nvmlDeviceGetRemappedRows(void *h, unsigned *corrected, unsigned *uncorrected, unsigned *pending, unsigned *failed) { *corrected = 1; *uncorrected = *pending = *failed = 0; return OK; }
int nvmlDeviceGetCurrentClocksThrottleReasons(void *h, unsigned long long *reasons) { *reasons = SECOND(h) ? 0x48 : 0x1; return OK; }
int nvmlDeviceGetTemperature(void *h, int sensor, unsigned *celsius) { *celsius = SECOND(h) ? 92 : 41; return OK; }
int nvmlDeviceGetEnforcedPowerLimit(void *h, unsigned *limit) { *limit = 700000; return OK; }
int nvmlDeviceGetPowerManagementDefaultLimit(void *h, unsigned *limit) { *limit = 700000; return OK; }
int nvmlDeviceGetFieldValues(void *h, int count, Field *fields) { fields[0].result = fields[0].field == 230 ? OK : NOT_SUPPORTED; fields[0].value.u = 0; return OK; }
int nvmlDeviceGetNvLinkState(void *h, unsigned link, unsigned *state) { if (link > 3) return NOT_SUPPORTED; *state = !(SECOND(h) && link == 1); return OK; }
int nvmlDeviceGetGpuFabricInfoV(void *h, Fabric *fabric) { if (fabric->version != 0x02000024) return 25; fabric->state = 3; fabric->status = OK; fabric->health = 0x2 | 2 << 4 | 1 << 8; return OK; }
int nvmlEventSetCreate(void **set) { *set = &told; return OK; }
int nvmlDeviceRegisterEvents(void *h, unsigned long long types, void *set) { if (SECOND(h) && types == 8) told = 1; return OK; }
int nvmlEventSetWait_v2(void *set, Event *event, unsigned ms) { if (told != 1) return TIMEOUT; told = 2; event->device = gpus + 1; event->type = 8; event->data = 79; return OK; }

"""placeholder"""
def conformance() -> None:
    """x"""

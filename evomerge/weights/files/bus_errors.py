"""A sentence in place of a silent death, where a mapped file is cut while it is read.

The system sends SIGBUS to a process that reads a page which its file no longer has, or which the
disk does not give. Nothing in Python can answer: its handlers run only after the read, which never
ends. So this one is machine code, made once, that calls nothing but ``write`` and ``_exit``.
"""

from __future__ import annotations

import ctypes
import signal
import threading
from functools import cache
from typing import Any

SENTENCE = (
    "\nevomerge: a file became shorter while it was read, or its disk failed (SIGBUS). Look for a "
    "model that was overwritten and put it back as it was; a run then goes on with evomerge "
    "resume. If /dev/shm is full, make room there.\n"
)
_CODE = 1  # of the process, as after any failure of the machine's
_SOURCE = """
@text = private constant [{size} x i8] c"{text}"
declare i64 @write(i32, ptr, i64)
declare void @_exit(i32)
define void @on_bus_error(i32 %number) {{
  %written = call i64 @write(i32 2, ptr @text, i64 {size})
  call void @_exit(i32 {code})
  ret void
}}
"""


_one_at_a_time = threading.Lock()


def explain_bus_errors() -> None:
    """Let SIGBUS end this process with `SENTENCE` and exit code 1, unless others listen for it."""
    with _one_at_a_time:  # threads that open their first files together
        _install()


@cache  # once a process; what it returns keeps the code alive
def _install() -> Any:
    import llvmlite.binding as llvm  # 50 ms, where numba is not imported yet

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    text = SENTENCE.encode()
    escaped = "".join(f"\\{byte:02x}" for byte in text)
    source = _SOURCE.format(size=len(text), text=escaped, code=_CODE)
    machine = llvm.Target.from_default_triple().create_target_machine()
    code = llvm.create_mcjit_compiler(llvm.parse_assembly(source), machine)
    code.finalize_object()
    libc = ctypes.CDLL(None)
    libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
    libc.signal.restype = ctypes.c_void_p
    before = libc.signal(signal.SIGBUS, code.get_function_address("on_bus_error"))
    if before is not None:  # not the default: a debugger's, or a test runner's
        libc.signal(signal.SIGBUS, before)
    return code

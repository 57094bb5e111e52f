"""Runs a program as on an older kernel: older_kernel.py LAST PROGRAM [ARGUMENT...]

System calls with a number above LAST came later. A seccomp filter answers them with ENOSYS, as an older kernel does.
What a kernel has learned within an older system call is not hidden. For x86_64.
"""

import ctypes
import os
import struct
import sys

LOAD, JUMP_IF_GREATER, RETURN = 0x20, 0x25, 0x06
ALLOW, ERRNO = 0x7FFF0000, 0x00050000
ENOSYS = 38
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 22, 38
SECCOMP_MODE_FILTER = 2


class Program(ctypes.Structure):
    """struct sock_fprog"""

    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def instruction(code, if_true, if_false, value):
    """struct sock_filter"""
    return struct.pack("HBBI", code, if_true, if_false, value)


def main():
    last = int(sys.argv[1])
    code = b"".join(
        [
            # The number of the system call is the first field.
            instruction(LOAD, 0, 0, 0),
            instruction(JUMP_IF_GREATER, 0, 1, last),
            instruction(RETURN, 0, 0, ERRNO | ENOSYS),
            instruction(RETURN, 0, 0, ALLOW),
        ]
    )
    code = ctypes.create_string_buffer(code, len(code))
    program = Program(len(code) // 8, ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    for args in [
        (PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0),
    ]:
        if libc.prctl(*args) != 0:
            sys.exit(f"prctl{args}: {os.strerror(ctypes.get_errno())}")
    os.execv(sys.argv[2], sys.argv[2:])


main()

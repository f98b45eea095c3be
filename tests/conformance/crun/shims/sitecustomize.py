"""What crun's tests use of newer Python versions, for the one of Debian 12."""

import ctypes
import os

if not hasattr(os, "setns"):
    _libc = ctypes.CDLL(None, use_errno=True)

    def _checked(result):
        if result != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def setns(fd, nstype=0):
        number = fd if isinstance(fd, int) else fd.fileno()
        _checked(_libc.setns(number, nstype))

    def unshare(flags):
        _checked(_libc.unshare(flags))

    os.setns = setns
    os.unshare = unshare
    os.CLONE_NEWNET = 0x40000000
    os.CLONE_NEWNS = 0x00020000

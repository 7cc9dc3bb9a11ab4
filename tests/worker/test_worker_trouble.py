"""A file that cannot be read now is not a missing one."""

from __future__ import annotations

import contextlib
import errno
import os
import resource

import pytest

from outpost_worker.folder import files


def test_without_descriptors_nothing_is_taken_for_missing(tmp_path):
    folder = str(tmp_path)
    files.store(folder, files.ORDER, {"digest": "x"})
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        for _ in range(300):
            with contextlib.suppress(OSError):
                held.append(os.open("/dev/null", os.O_RDONLY))
        with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
            files.load(folder, files.ORDER)
    finally:
        for fd in held:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert files.load(folder, files.ORDER) == {"digest": "x"}
    assert files.load(folder, files.RESULT) is None
    assert files.load(f"{folder}/{files.ORDER}", files.RESULT) is None

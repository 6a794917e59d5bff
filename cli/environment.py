"""What a command needs of the environment that it is started in."""

import codecs
import locale
import os
import sys
from io import TextIOWrapper

from reaseq.errors import InvalidSettings

MULTIPROCESS = ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir")


def check_environment() -> None:
    """Raise InvalidSettings if files would be read in another encoding than UTF-8, or metrics written to files.

    Text that standard output cannot encode is printed with escapes.
    """
    encoding = locale.getpreferredencoding(do_setlocale=False)
    if codecs.lookup(encoding).name != "utf-8":
        raise InvalidSettings(f"the locale has the encoding {encoding}: set PYTHONUTF8=1, or LC_ALL=C.UTF-8")
    for name in MULTIPROCESS:
        if name in os.environ:
            raise InvalidSettings(f"unset {name}: every process serves its own metrics, and shares none through files")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")

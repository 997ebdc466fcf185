"""Makes the tokens that compose.yaml's services share, once: `make_tokens.py DIR/NAME:MODE …`, for example `/run/tollbridge/admin:400`.

A token that is there stays, so that a restart changes nothing.
"""

import os
import secrets
import sys


def main(arguments: list[str]) -> None:
    for argument in arguments:
        path, _, mode = argument.rpartition(":")
        try:
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, int(mode, 8))
        except FileExistsError:
            continue
        os.write(file, f"tb-{secrets.token_urlsafe(32)}".encode())
        os.close(file)
        os.chmod(path, int(mode, 8))  # whatever the umask took away


if __name__ == "__main__":
    main(sys.argv[1:])

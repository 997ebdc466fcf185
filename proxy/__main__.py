"""`python -m proxy` is the command `tollbridge`."""

from proxy.launch import main

if __name__ == "__main__":
    main()

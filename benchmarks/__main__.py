"""`python -m benchmarks NAME`: measures and prints a table. Nothing here is a test; nothing here judges."""

from __future__ import annotations

import argparse
import importlib

NAMES = ("hotpath", "adapters", "limits", "sockets")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each measurement")
    options = parser.parse_args()
    importlib.import_module(f"benchmarks.{options.name}").main(seconds=options.seconds)


if __name__ == "__main__":
    main()

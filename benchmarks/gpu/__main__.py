"""What the GPU paths cost, one command a table:

    python benchmarks/gpu generation      tokens a second: our worker against vLLM by itself
    python benchmarks/gpu weights         a transfer of weights against a plain copy of the same bytes
    python benchmarks/gpu learner         tokens a second and MFU of SFT, against TRL's trainer with packing and liger
    python benchmarks/gpu step            whole GRPO steps, against TRL's trainer with colocated vLLM
    python benchmarks/gpu agreement       log-probabilities: engine, learner, and a float32 forward pass

Each prints the machine and versions, then its table, and runs its own baseline: ratios hold on other machines.
"""

from __future__ import annotations

import argparse

import agreement
import generation
import learner
import machine
import step
import weights

TABLES = {"generation": generation, "weights": weights, "learner": learner, "step": step, "agreement": agreement}
"""By name: a module with `arguments(parser)` and `run(options)`; its docstring is the command's help."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="table", required=True)
    for name, module in TABLES.items():
        command = commands.add_parser(name, description=module.__doc__)
        module.arguments(command)
    options = parser.parse_args()
    print(machine.describe(), flush=True)
    TABLES[options.table].run(options)


if __name__ == "__main__":
    main()

"""What training frees stays with the process between steps, and goes back to the system when it is told to."""

import subprocess
import sys

STEPS = """
import resource
import torch
from spanqa_training.run.allocator import give_back_idle_memory, keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def step():
    for megabytes in (64, 48, 80):
        torch.ones(megabytes << 18).sum()

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

torch.set_num_threads(1)
if KEEP:
    assert keep_freed_memory()
step()
before = faults()
for _ in range(4):
    step()
print(faults() - before)
held = resident()
give_back_idle_memory()
print(held - resident())
"""


def _faults_and_given_back(keep):
    done = subprocess.run(
        [sys.executable, "-c", STEPS.replace("KEEP", str(keep))], capture_output=True, text=True, check=True
    )
    return [int(line) for line in done.stdout.split()]


def test_a_step_takes_the_memory_of_the_one_before_and_gives_it_back_when_told():
    faults, _ = _faults_and_given_back(keep=False)
    kept_faults, given_back = _faults_and_given_back(keep=True)
    assert kept_faults < faults / 5
    assert given_back > 32 << 20

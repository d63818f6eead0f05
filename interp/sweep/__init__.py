"""Checkpoints x probes: score every checkpoint of a run into one file, killable and resumable at any moment.

checkpoints.py  what the user gave -> checkpoints in step order    names.py, table.py: step and tokens seen
shards.py       one immutable file a checkpoint, the frozen probes, notes of what failed
worker.py       one checkpoint -> scores                           ray_workers.py: many of them at once
merge.py        shards -> one results file, in one replace
run.py          the sweep: what is to do, who does it, what came of it
"""

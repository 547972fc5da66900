"""`manage.py up`: the whole platform as one command, on one machine.

Read `supervisor.py` first: it is the sequence. The other modules each own one thing that it needs and know nothing of
each other's: the home directory, PostgreSQL, Valkey, child processes, what the children are, the console.
None of it needs Django's settings, because it makes the environment that those are read from; `prepare.py`, which
migrates and seeds, runs as a process of its own.
"""

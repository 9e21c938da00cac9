"""Where the trainings of a benchmark run: in slots of this machine, each a process of its own."""

"""Loaders for published traces, and a generator for those who have none.

Each loader reads the format as its authors publish it, so that anybody can bring their own copy, and gives frozen
arrays: instants and lengths in integer milliseconds, capacity in GPUs or milli-GPUs. No trace is part of the project.

    folder        where the traces lie
    helios        GPUs owned by tenant and day                  (SC'21)
    philly        real jobs: when, how long, how many GPUs      (ATC'19)
    openb         heterogeneous nodes, pods that share GPUs     (ATC'23)
    gavel         measured steps a second by GPU class          (OSDI'20)
    calendars     a year of lots cut out of known packings      (ours, generated)
    replay_input  Helios' calendar and Philly's jobs made into one input for a replay
    generate      the same input, and the same folder of files, from a seed
"""

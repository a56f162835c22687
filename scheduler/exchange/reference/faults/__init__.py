"""A reference exchange that misbehaves on demand, so that clusters can be tested against one.

    faults      which faults there are, how they are written, and when each strikes: by seed, never by chance
    lies        answers with something else in them
    calls       the faults of messages: around the honest services, which know nothing of them
    venue       the faults of the market: lots sold that were never listed
    control     setting them while the exchange runs

Without a fault in force the exchange is the honest one, byte for byte.
"""

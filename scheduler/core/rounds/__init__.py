"""The steps of one round, each pure: the state as it is in, events out. The service applies and persists them in
order.
"""

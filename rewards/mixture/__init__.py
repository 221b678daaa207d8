"""A mixture of rewards: how functions are found, run, confined and summed."""

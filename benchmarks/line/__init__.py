"""A simulator of the line for GPUs: policies side by side on the same arrivals."""

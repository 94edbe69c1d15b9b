"""Pools of workers that evaluate plans: in the driver's process, in processes of its own, on a Ray cluster."""

"""Measurements that anyone can repeat: every one prints its numbers and the machine they were taken on."""

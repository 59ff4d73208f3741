"""Kafka: the topics, with their reasons, and what makes them."""

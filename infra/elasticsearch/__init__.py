"""Elasticsearch: the template of the search index, and what puts it there."""

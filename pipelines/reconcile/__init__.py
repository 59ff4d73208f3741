"""Whether Kafka, the ledger, the tables and the search index tell the same story: the checker of FAULTS, in production.

It reads Kafka with a consumer of its own, PostgreSQL by SQL and Elasticsearch by its documents, and trusts no counter.
"""

#!/bin/sh
# Roles and databases, made once with the cluster; the same as infra/local/postgres.py makes.
set -eu

psql --quiet --set ON_ERROR_STOP=1 --username postgres \
    --set migrator="$VIGIL_MIGRATOR_PASSWORD" --set writer="$VIGIL_WRITER_PASSWORD" \
    --set reader="$VIGIL_READER_PASSWORD" --set mlflow="$VIGIL_MLFLOW_PASSWORD" <<'SQL'
CREATE ROLE vigil_migrator LOGIN PASSWORD :'migrator';
CREATE ROLE vigil_writer LOGIN PASSWORD :'writer';
CREATE ROLE vigil_reader LOGIN PASSWORD :'reader';
CREATE ROLE vigil_mlflow LOGIN PASSWORD :'mlflow';
CREATE DATABASE vigil OWNER vigil_migrator;
CREATE DATABASE mlflow OWNER vigil_mlflow;
REVOKE CONNECT ON DATABASE vigil FROM PUBLIC;
REVOKE CONNECT ON DATABASE mlflow FROM PUBLIC;
GRANT CONNECT ON DATABASE vigil TO vigil_writer, vigil_reader;
SQL

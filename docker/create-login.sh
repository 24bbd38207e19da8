#!/bin/sh
# Run once by the postgres image, in an empty data folder: the extension, whose script creates the roles,
# and the logins that the ingester and the page use. `sluice migrate` does the rest.
set -eu
psql -v ON_ERROR_STOP=1 -U "$POSTGRES_USER" -d "$POSTGRES_DB" -v password="$INGESTER_PASSWORD" -v operator="$OPERATOR_PASSWORD" <<SQL
CREATE EXTENSION sluice;
CREATE ROLE sluice_ingester LOGIN PASSWORD :'password' IN ROLE sluice_writer;
CREATE ROLE sluice_operator LOGIN PASSWORD :'operator' IN ROLE sluice_admin;
SQL

#!/bin/sh
# Makes the data directory once, whole or not at all, with the plain role that services connect with (row-level
# security means nothing to a superuser), and becomes the server. The superuser has no password and can
# only come in by the socket, from inside this container.
set -eu
data=/data/postgres
if [ ! -e "$data/PG_VERSION" ]; then
  rm -rf "$data.new"
  initdb -D "$data.new" -U postgres --auth-local=trust --auth-host=scram-sha-256 \
    --encoding=UTF8 --no-locale --locale-provider=builtin --builtin-locale=C.UTF-8 \
    --no-instructions >/dev/null
  echo 'host all all all scram-sha-256' >> "$data.new/pg_hba.conf"
  # One statement a line. The password has no character that would need quoting.
  postgres --single -D "$data.new" -c password_encryption=scram-sha-256 postgres >/dev/null <<SQL
CREATE ROLE peregrine LOGIN NOSUPERUSER NOBYPASSRLS PASSWORD '$(cat /etc/peregrine/secrets/postgres-password)'
CREATE DATABASE peregrine OWNER peregrine
SQL
  mv "$data.new" "$data"
fi
exec postgres -D "$data" -c listen_addresses='*' -c unix_socket_directories=/tmp \
  -c max_connections=200 -c shared_buffers=128MB -c max_wal_size=256MB -c jit=off -c timezone=UTC

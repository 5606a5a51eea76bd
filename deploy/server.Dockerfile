# The fusetune server, which also measures on the CPU it runs on, and the members of a cluster.
# Built from the repository's root:
#   docker build -f deploy/server.Dockerfile -t fusetune-server .

FROM python:3.11-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/fusetune
WORKDIR /src
# What changes rarely first. setuptools alone reads the rest, so it is installed under the same constraints.
COPY constraints.txt ./
RUN /opt/fusetune/bin/pip install -c constraints.txt setuptools
COPY pyproject.toml README.md LICENSE ./
COPY service ./service
COPY tuner ./tuner
COPY cost_model ./cost_model
COPY db ./db
COPY bench ./bench
ARG EXTRAS=postgres,cluster
RUN /opt/fusetune/bin/pip install -c constraints.txt --no-build-isolation ".[${EXTRAS}]"

FROM python:3.11-slim
# Kernels are linked where they are built.
RUN apt-get update && apt-get install -y --no-install-recommends binutils openssl && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/fusetune /opt/fusetune
COPY deploy/cluster-keys.sh /opt/fusetune/
# Volumes take their owner from the folder they are first put on.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /data fusetune \
 && install -d -o fusetune -g fusetune -m 0750 /data /keys
ENV PATH=/opt/fusetune/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 HOME=/data
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8077
ENTRYPOINT ["fusetune"]
CMD ["serve", "--host", "0.0.0.0", "--data", "/data", "--log-json"]

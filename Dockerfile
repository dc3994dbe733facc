# dem in an image, from the wheel that is built here:
#
#     docker build --tag dem --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu .
#     docker run --rm --user "$(id -u):$(id -g)" --volume "$PWD:/work" --volume dem-home:/home/dem dem build recipe.toml
#
# The second volume keeps what hubs sent and what dem has hashed; without it each run asks and reads anew.
# On Linux PyPI's torch brings CUDA; TORCH_INDEX names another index, such as that of torch without it.
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS wheel
WORKDIR /source
COPY . .
ENV PIP_CONSTRAINT=/source/constraints.txt
RUN python -m pip install --quiet --no-cache-dir build==1.6.1 && python -m build --wheel --outdir /wheel

FROM python:${PYTHON}-slim
ARG TORCH_INDEX=
ARG EXTRAS=remote
# git is what `dem ci` and `dem diff REV:PATH` read revisions with; whichever the distribution
# has. What is mounted belongs to whoever mounts it, and git reads repositories of others only where that is said.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends git && rm -rf /var/lib/apt/lists/* && \
    git config --system --add safe.directory /work
COPY --from=wheel /wheel /wheel
COPY constraints.txt /wheel/
# The backends of source distributions are constrained by the first variable in older pips, by the second in newer ones.
RUN PIP_CONSTRAINT=/wheel/constraints.txt PIP_BUILD_CONSTRAINT=/wheel/constraints.txt \
    python -m pip install --no-cache-dir --constraint /wheel/constraints.txt ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} \
        "$(ls /wheel/*.whl)[$EXTRAS]" && \
    dem --version
# Whoever it runs as has a home for what hubs and dem keep.
ENV HOME=/home/dem
RUN mkdir --mode=0777 /home/dem
WORKDIR /work
ENTRYPOINT ["dem"]
CMD ["--help"]

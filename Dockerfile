# dem in an image, from the wheel that is built here:
#
#     docker build --tag dem --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu .
#     docker run --rm --user "$(id -u):$(id -g)" --volume "$PWD:/work" dem build recipe.toml
#
# On Linux PyPI's torch brings CUDA; TORCH_INDEX names another index, such as that of torch without it.
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS wheel
WORKDIR /source
COPY . .
RUN python -m pip install --quiet --no-cache-dir build==1.6.1 && python -m build --wheel --outdir /wheel

FROM python:${PYTHON}-slim
ARG TORCH_INDEX=
ARG EXTRAS=remote
# git is what `dem ci` and `dem diff REV:PATH` read revisions with.
RUN apt-get update && apt-get install --yes --no-install-recommends git && rm -rf /var/lib/apt/lists/*
COPY --from=wheel /wheel /wheel
COPY constraints.txt /wheel/
RUN python -m pip install --no-cache-dir --constraint /wheel/constraints.txt ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} \
        "$(ls /wheel/*.whl)[$EXTRAS]" && \
    dem --version
# Whoever it runs as has a home for what hubs and dem keep.
ENV HOME=/home/dem
RUN mkdir --mode=0777 /home/dem
WORKDIR /work
ENTRYPOINT ["dem"]
CMD ["--help"]

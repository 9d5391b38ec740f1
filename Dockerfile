# A build argument chooses PyTorch's wheels: by default pip's own, which are for CUDA. See docs/container.md.
#   docker build --tag mettle .
#   docker build --tag mettle:cpu --build-arg TORCH_INDEX_URL=INDEX .
ARG PYTHON_VERSION=3.11
FROM python:${PYTHON_VERSION}-slim-bookworm

# empty: pip's own index; a mirror otherwise
ARG PIP_INDEX_URL=
# empty: the same; else an index that has torch, torchvision, torchaudio and what they need
ARG TORCH_INDEX_URL=
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1

# what torch and numba share threads with; libsndfile and FFmpeg come in wheels
RUN apt-get update && apt-get install --yes --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/mettle
# PyTorch first: its layer is the largest, and changes only with these lines. The lock has the versions without a suffix
COPY constraints.txt ./
RUN if [ -z "${PIP_INDEX_URL}" ]; then unset PIP_INDEX_URL; fi; \
    pip install --no-cache-dir ${TORCH_INDEX_URL:+--index-url "${TORCH_INDEX_URL}"} \
    "torch==2.11.*" "torchvision==0.26.*" "torchaudio==2.11.*"
COPY pyproject.toml README.md LICENSE ./
COPY mettle_cache mettle_cache
COPY pipelines pipelines
COPY cli cli
# what the CUDA index brought in other versions than the lock stays as it is
RUN if [ -z "${PIP_INDEX_URL}" ]; then unset PIP_INDEX_URL; fi; \
    grep --invert-match --extended-regexp '^(torch|torchvision|torchaudio|triton|nvidia|cuda)' constraints.txt > lock.txt \
    && pip install --no-cache-dir --constraint lock.txt .

RUN useradd --create-home --uid 1000 mettle && mkdir /work && chown mettle /work
USER mettle
WORKDIR /work
RUN mettle doctor --no-measure
# data, cache, runs and weights are looked for here
VOLUME /work
ENTRYPOINT ["mettle"]
CMD ["--help"]

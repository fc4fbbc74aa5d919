# Jobs on the CPU: docker build -t onnxheadprune . && docker run --rm -v "$PWD:/work" onnxheadprune run job.yaml
FROM python:3.12-slim

# The package depends on the build of ONNX Runtime that also runs CUDA. Where there is no card, the plain one is a
# tenth of its size, so it takes its place; two builds in one environment overwrite each other.
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY onnxheadprune onnxheadprune
# Which versions it takes, the package says.
# hadolint ignore=DL3013
RUN pip install --no-cache-dir . --no-deps \
    && pip install --no-cache-dir onnxruntime \
       click 'ml_dtypes!=0.7.0' numpy onnx onnx-graphsurgeon rich scipy threadpoolctl tokenizers \
       junitparser pillow pyyaml \
    && onnxheadprune doctor --provider cpu \
    && useradd --create-home --uid 1000 user

# Whoever runs it (docker run --user) has a place for caches.
ENV HOME=/tmp
USER 1000
WORKDIR /work
ENTRYPOINT ["onnxheadprune"]
CMD ["--help"]

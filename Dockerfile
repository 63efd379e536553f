# A server of one model, on the CPU: `docker build -t t5gemma2 .`, then
#
#     docker run -p 8000:8000 -e T5GEMMA2_API_KEY=secret t5gemma2
#
# Another model or other options replace the last line's: `docker run ... t5gemma2 PRESET --rows 8`,
# which begins as `t5gemma2 serve` does. Weights that are downloaded stay in the volume.
FROM python:3.12-slim

WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY keras_t5gemma2 keras_t5gemma2
COPY t5gemma2_cli t5gemma2_cli
RUN pip install --no-cache-dir ".[jax,serve]" && rm -rf /source/*

# Requests need no rights: no file of the image is written to but those of the volume.
RUN useradd --create-home server && mkdir /weights && chown server /weights
USER server
WORKDIR /home/server
ENV HF_HOME=/weights/huggingface KAGGLEHUB_CACHE=/weights/kaggle
VOLUME /weights

EXPOSE 8000
HEALTHCHECK --start-period=2m CMD ["python", "-c", \
    "import urllib.request; urllib.request.urlopen('http://localhost:8000/health')"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["t5gemma2", "serve", "--backend", "jax", "--host", "0.0.0.0"]
CMD ["t5gemma2_tiny"]

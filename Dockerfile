# docker build .                              the server, as `make docker-env` runs it
# docker build --build-arg TARGET=lambda .    the AWS Lambda function
#
# Both for linux/amd64 and linux/arm64. For Lambda add --provenance=false: it refuses attestations.

ARG TARGET=local
ARG PYTHON=3.13

# --- The server -----------------------------------------------------------------------------------

FROM python:${PYTHON}-slim AS local-packages
COPY requirements/local.txt /
RUN pip install --no-cache-dir --no-compile --require-hashes --target /packages -r /local.txt \
    && python -m compileall -q -j 0 --invalidation-mode unchecked-hash /packages

FROM python:${PYTHON}-slim AS local
ENV PYTHONPATH=/packages PYTHONUNBUFFERED=1 \
    API_HOST=0.0.0.0 DATABASE_PATH=/data/chat_history.db
RUN useradd --uid 10001 --home-dir /data --create-home --shell /usr/sbin/nologin chat
COPY --from=local-packages /packages /packages
WORKDIR /app
COPY manage.py ./
COPY providers ./providers
COPY chatproject ./chatproject
COPY chat ./chat
RUN python -m compileall -q --invalidation-mode unchecked-hash /app \
    && SECRET_KEY=build-time-check-only-0123456789-abcdefghijklmnopqrstuvwxyz \
       python manage.py check --deploy --fail-level WARNING
USER 10001
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s \
    CMD ["python", "-m", "chatproject.server.health_check"]
CMD ["python", "manage.py", "serve"]

# --- The Lambda function --------------------------------------------------------------------------

FROM public.ecr.aws/lambda/python:${PYTHON} AS lambda-packages
COPY requirements/lambda.txt /
RUN pip install --no-cache-dir --no-compile --require-hashes --target /packages -r /lambda.txt \
    && python -m compileall -q -j 0 --invalidation-mode unchecked-hash /packages \
    && chmod -R a+rX /packages

FROM public.ecr.aws/lambda/python:${PYTHON} AS lambda
COPY --from=lambda-packages /packages ${LAMBDA_TASK_ROOT}/
COPY manage.py ${LAMBDA_TASK_ROOT}/
COPY providers ${LAMBDA_TASK_ROOT}/providers
COPY chatproject ${LAMBDA_TASK_ROOT}/chatproject
COPY chat ${LAMBDA_TASK_ROOT}/chat
# Compile here, as Lambda's file system is read-only: uncompiled modules take four times as long to
# import.
WORKDIR ${LAMBDA_TASK_ROOT}
RUN python -m compileall -q --invalidation-mode unchecked-hash \
        manage.py providers chatproject chat \
    && chmod -R a+rX manage.py providers chatproject chat \
    && AWS_LAMBDA_FUNCTION_NAME=build AWS_REGION=us-east-1 AWS_DEFAULT_REGION=us-east-1 \
       SECRET_KEY=build-time-check-only-0123456789-abcdefghijklmnopqrstuvwxyz \
       python manage.py check --deploy --fail-level WARNING
ENTRYPOINT ["/bin/sh", "/var/task/chatproject/lambda_start.sh"]
CMD ["chatproject.lambda_handler.handler"]

FROM ${TARGET}
# The build, e.g. the commit, which /v1/health shows after the version.
ARG BUILD=""
ENV BUILD=${BUILD}

#!/bin/sh
# Start the function: the runtime loop behind a front that streams, or else AWS's runtime client.
if [ "$LAMBDA_RESPONSE_MODE" != streaming ]; then
    exec /lambda-entrypoint.sh "$@"
fi
set -- python -m chatproject.lambda_runtime
if [ -z "$AWS_LAMBDA_RUNTIME_API" ]; then # not on Lambda: AWS's emulator of it is in the image
    set -- /usr/local/bin/aws-lambda-rie "$@"
fi
exec "$@"

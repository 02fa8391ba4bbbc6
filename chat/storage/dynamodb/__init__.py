from chat.storage.base import Backend
from chat.storage.dynamodb.api_keys import DynamoApiKeyStore
from chat.storage.dynamodb.bulk import DynamoBulkStore
from chat.storage.dynamodb.interactions import DynamoInteractionStore
from chat.storage.dynamodb.usage import DynamoUsageStore


def backend() -> Backend:
    """Return the stores on DynamoDB."""
    return Backend(
        interactions=DynamoInteractionStore(),
        api_keys=DynamoApiKeyStore(),
        usage=DynamoUsageStore(),
        bulk=DynamoBulkStore(),
    )

"""Examples of the OpenAPI document: requests and responses."""

ID = "01998a6e-6f4c-7c3e-9d57-3f1a2b4c5d6e"
NEXT_ID = "01998a6f-0b1d-7a4e-8c2f-6d5e4f3a2b1c"
CURSOR = "eyJ2IjoxfQ"
TIMESTAMP = "2026-01-01T12:00:00.000000Z"
CHAT_REQUEST = {"userId": "user123", "prompt": "Olá!"}
NEXT_TURN_REQUEST = {
    "userId": "user123",
    "prompt": "And in French?",
    "previous_interaction_id": ID,
}
STREAM_REQUEST = {
    "userId": "user123",
    "prompt": "Tell me about Lisbon.",
    "system": "Answer in one paragraph.",
    "temperature": 0.2,
    "max_tokens": 500,
    "metadata": {"ticket": "4711"},
    "stream": True,
}
IMAGE_REQUEST = {
    "userId": "user123",
    "prompt": "What is in this picture?",
    "images": ["https://example.org/picture.png"],
}
JSON_REQUEST = {
    "userId": "user123",
    "prompt": "A city in Portugal.",
    "response_format": {
        "type": "json_schema",
        "json_schema": {
            "name": "city",
            "schema": {"type": "object", "properties": {"name": {"type": "string"}}},
        },
    },
    "reasoning_effort": "low",
    "seed": 7,
}
TOKENS = {
    "prompt_tokens": 9,
    "completion_tokens": 41,
    "total_tokens": 50,
    "cached_tokens": None,
    "reasoning_tokens": None,
    "cost_usd": "0.000104",
}
CHAT_ANSWER = {
    "interaction_id": ID,
    "userId": "user123",
    "prompt": "Olá!",
    "response": "Olá! Como posso ajudar?",
    "model": "google/gemini-3.5-flash-lite",
    "timestamp": TIMESTAMP,
    "reasoning": None,
    "conversation_id": ID,
    "previous_interaction_id": None,
    "provider": "openrouter",
    "finish_reason": "stop",
    "cached": False,
    "latency_ms": 812,
    "usage": TOKENS,
    "metadata": {},
}
REASONED_ANSWER = {**CHAT_ANSWER, "reasoning": "The user greets me in Portuguese."}
CHAT_EVENTS = 'event: delta\ndata: {"text":"Olá!"}\n\nevent: done\ndata: {"interaction_id": …}\n\n'
ATTEMPT = {
    "provider": "openrouter",
    "model": "google/gemini-3.5-flash-lite",
    "outcome": "ok",
    "latency_ms": 805,
}
RECORD = {
    **CHAT_ANSWER,
    "status": "ok",
    "error": None,
    "attempts": [ATTEMPT],
}
NEXT_RECORD = {
    **RECORD,
    "interaction_id": NEXT_ID,
    "previous_interaction_id": ID,
    "prompt": NEXT_TURN_REQUEST["prompt"],
    "response": "Bonjour ! Comment puis-je vous aider ?",
    "timestamp": "2026-01-01T12:00:31.000000Z",
}
FAILED_RECORD = {
    **RECORD,
    "response": None,
    "finish_reason": None,
    "status": "error",
    "error": {"code": "provider_timeout", "detail": "The provider did not answer in time."},
    "attempts": [{**ATTEMPT, "outcome": "provider_timeout", "latency_ms": 120_000}],
    "latency_ms": 120_003,
    "usage": dict.fromkeys(TOKENS),
}
PAGE = {"items": [NEXT_RECORD, RECORD], "next_cursor": CURSOR}
CONVERSATION = {"conversation_id": ID, "items": [RECORD, NEXT_RECORD], "next_cursor": None}

COMPLETION_REQUEST = {"model": "default", "messages": [{"role": "user", "content": "Olá!"}]}
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
}
TOOL_CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city":"Lisboa"}'},
}
TOOLS_REQUEST = {
    "model": "default",
    "messages": [{"role": "user", "content": "What is the weather in Lisbon?"}],
    "tools": [{"type": "function", "function": {"name": "weather", "parameters": WEATHER}}],
}
COMPLETION_STREAM_REQUEST = {
    **COMPLETION_REQUEST,
    "user": "user123",
    "stream": True,
    "stream_options": {"include_usage": True},
}
TOOL_RESULT_REQUEST = {
    "model": "default",
    "previous_interaction_id": ID,
    "messages": [{"role": "tool", "tool_call_id": TOOL_CALL["id"], "content": "18 °C"}],
}
COMPLETION = {
    "id": f"chatcmpl-{ID}",
    "object": "chat.completion",
    "created": 1767268800,
    "system_fingerprint": None,
    "model": "google/gemini-3.5-flash-lite",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Olá!", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": {
        "prompt_tokens": 9,
        "completion_tokens": 41,
        "total_tokens": 50,
        "prompt_tokens_details": {},
        "completion_tokens_details": {},
    },
    "interaction_id": ID,
}
TOOL_CALL_COMPLETION = {
    **COMPLETION,
    "choices": [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": None,
                "refusal": None,
                "tool_calls": [TOOL_CALL],
            },
            "logprobs": None,
            "finish_reason": "tool_calls",
        }
    ],
}
COMPLETION_EVENTS = (
    'data: {"id":"chatcmpl-…","object":"chat.completion.chunk",'
    '"choices":[{"index":0,"delta":{"content":"Olá!"},"finish_reason":null}]}\n\n'
    "data: [DONE]\n\n"
)
RESPONSE_REQUEST = {"model": "default", "input": "Olá!"}
RESPONSE_TOOLS_REQUEST = {
    "model": "default",
    "instructions": "Answer in Portuguese.",
    "input": "What is the weather in Lisbon?",
    "tools": [{"type": "function", "name": "weather", "parameters": WEATHER}],
}
RESPONSE_STREAM_REQUEST = {**RESPONSE_REQUEST, "user": "user123", "stream": True}
RESPONSE_EVENTS = (
    'event: response.created\ndata: {"type":"response.created","sequence_number":0,…}\n\n'
    "event: response.output_text.delta\n"
    'data: {"type":"response.output_text.delta","delta":"Olá!",…}\n\n'
    'event: response.completed\ndata: {"type":"response.completed","response":{…}}\n\n'
)
RESPONSE_RESULTS_REQUEST = {
    "model": "default",
    "previous_response_id": f"resp_{ID}",
    "input": [{"type": "function_call_output", "call_id": "call_1", "output": "18 °C"}],
}
RESPONSE = {
    "id": f"resp_{ID}",
    "object": "response",
    "created_at": 1767268800,
    "background": False,
    "status": "completed",
    "completed_at": 1767268801,
    "error": None,
    "incomplete_details": None,
    "instructions": None,
    "max_tool_calls": None,
    "metadata": {},
    "model": "google/gemini-3.5-flash-lite",
    "output": [
        {
            "id": f"msg_{ID}",
            "type": "message",
            "status": "completed",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "Olá!", "annotations": [], "logprobs": []}],
        }
    ],
    "previous_response_id": None,
    "store": True,
    "truncation": "disabled",
    "usage": {
        "input_tokens": 9,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 41,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 50,
        "cost_usd": "0.000104",
    },
    "user": None,
    "max_output_tokens": None,
    "parallel_tool_calls": True,
    "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "service_tier": None,
    "temperature": None,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": None,
    "interaction_id": ID,
}
TOOL_CALL_RESPONSE = {
    **RESPONSE,
    "output": [
        {
            "id": f"fc_{ID}",
            "type": "function_call",
            "status": "completed",
            "call_id": "call_1",
            "name": "weather",
            "arguments": '{"city":"Lisboa"}',
        }
    ],
}
DELETED_RESPONSE = {"id": f"resp_{ID}", "object": "response", "deleted": True}
RESPONSE_ITEMS = {
    "object": "list",
    "data": [
        {
            "id": f"msg_in_{ID}",
            "type": "message",
            "status": "completed",
            "role": "user",
            "content": [{"type": "input_text", "text": "Olá!"}],
        }
    ],
    "first_id": f"msg_in_{ID}",
    "last_id": f"msg_in_{ID}",
    "has_more": False,
}
MODEL_ID = "google/gemini-3.5-flash-lite"
MODEL = {
    "id": MODEL_ID,
    "object": "model",
    "created": 0,
    "owned_by": "openrouter",
}
MODELS = {"object": "list", "data": [MODEL]}

USAGE_COUNTS = {
    "requests": 12,
    "errors": 1,
    "prompt_tokens": 108,
    "completion_tokens": 492,
    "total_tokens": 600,
    "cost_usd": "0.001248",
}
USAGE = {
    "items": [{"date": "2026-01-01", **USAGE_COUNTS}],
    "total": USAGE_COUNTS,
    "next_cursor": None,
}
USERS_USAGE = {
    **USAGE,
    "items": [{"user": "user123", **USAGE_COUNTS}],
    "budget": {"monthly_usd": "20", "spent_usd": "0.001248", "user_monthly_usd": "1"},
}

HEALTH = {"status": "healthy", "version": "1.0.0", "timestamp": TIMESTAMP}
READY = {
    "status": "ready",
    "checks": {"storage": "ok", "provider": "ok"},
    "timestamp": TIMESTAMP,
}
NOT_READY = {
    **READY,
    "status": "not_ready",
    "checks": {"storage": "The storage cannot be reached.", "provider": "ok"},
}
INDEX = {
    "name": "Serverless Chat API",
    "version": "1.0.0",
    "links": {
        "docs": "https://chat.example.org/docs",
        "redoc": "https://chat.example.org/redoc",
        "openapi": "https://chat.example.org/openapi.json",
    },
}

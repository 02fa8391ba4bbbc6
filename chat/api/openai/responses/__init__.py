"""OpenAI's Responses API: items in, items out, a conversation by `previous_response_id`.

https://platform.openai.com/docs/api-reference/responses is the reference. Requests are translated
into chat completions' terms (`parameters`, `input_items`), and records into responses (`render`,
`output_items`, `events`).
"""

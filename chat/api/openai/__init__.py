"""OpenAI's API in front of the same service.

https://platform.openai.com/docs/api-reference/chat is the reference of requests and responses.
"""

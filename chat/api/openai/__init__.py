"""OpenAI's API in front of the same service: translation, and nothing else.

https://platform.openai.com/docs/api-reference/chat describes what its clients send and expect.
"""

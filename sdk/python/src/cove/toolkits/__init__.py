"""The tools of ``cove.tools`` as the tools of agent frameworks, each an extra of the package:

- ``openai_agents``: the OpenAI Agents SDK, ``cove-sandbox[openai-agents]``
- ``langchain``: LangChain and LangGraph, ``cove-sandbox[langchain]``
- ``deepagents``: a sandbox as the backend of a deep agent, ``cove-sandbox[deepagents]``
- ``axio``: ``cove-sandbox[axio]``

Clients of the Model Context Protocol, as the Claude Agent SDK, take ``cove mcp``.
"""

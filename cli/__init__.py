"""The command ``dcn-deploy``: one module per command, each with a function ``command``.

A command parses, calls ``dcn_deploy`` and prints; it decides nothing itself.
"""

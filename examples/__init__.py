"""Programs that use the packages as another project would. Start with `rl_sync.py`.

rl_sync       a trainer publishes its weights after every step, and another process follows

Nothing in this folder is installed, so run it from a checkout.
"""

"""What all other rooms lean on.

Nothing is handed on here: `versions` must be there before torch and the extension are loaded.
"""

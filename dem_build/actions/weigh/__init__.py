"""`model`, matched with importances that are searched on validation rows."""

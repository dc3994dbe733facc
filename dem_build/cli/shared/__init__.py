"""What commands have to do with stores that others share."""

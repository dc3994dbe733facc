"""What a call that found nothing to do looked at and asked: the next one looks and asks again, and is done."""

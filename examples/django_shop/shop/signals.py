"""Saved orders become events, once they are really saved."""

from __future__ import annotations

from functools import partial
from typing import Any

from django.core.serializers.json import DjangoJSONEncoder
from django.db import transaction
from django.db.models.signals import post_save
from django.dispatch import receiver
from herald_client import Publisher

from shop.models import Order

# One for all threads, and for the workers of a prefork server too. Django's encoder knows dates,
# decimals and UUIDs.
publisher = Publisher(dumps=DjangoJSONEncoder(ensure_ascii=False).encode)


@receiver(post_save, sender=Order)
def tell_user(instance: Order, created: bool, **kwargs: Any) -> None:
    """Not before the transaction is committed: what is rolled back is nobody's news."""
    transaction.on_commit(
        partial(
            publisher.enqueue,
            to=f"user:{instance.user.get_username()}",
            type="order.created" if created else "order.changed",
            data={"id": instance.pk, "product": instance.product, "price": instance.price},
        )
    )

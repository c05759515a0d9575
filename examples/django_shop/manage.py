"""A Django shop that tells its users about their orders through Herald.

Run it beside a Herald (`make run` prints the key and the secret), in this folder:

    cd examples/django_shop
    export HERALD_URL=http://127.0.0.1:8000 HERALD_API_KEY=… HERALD_JWT_SECRET=…
    pip install django pyjwt uvicorn ../../clients/python
    python manage.py migrate
    export DJANGO_SUPERUSER_PASSWORD='a long password'
    python manage.py createsuperuser --noinput --username alice --email alice@example.com
    python manage.py runserver 8080          # or: uvicorn shop.asgi:application --port 8080

and order, in another terminal. Django wants the cookie that the first line brings back in a header:

    touch cookies
    csrf() { awk '$6 == "csrftoken" { print $7 }' cookies; }
    shop() { curl -b cookies -c cookies -H "X-CSRFToken: $(csrf)" "$@"; echo; }
    shop http://127.0.0.1:8080/login
    shop -d '{"username":"alice","password":"a long password"}' http://127.0.0.1:8080/login
    shop http://127.0.0.1:8080/herald-token
    shop -d '{"product":"tea","price":3}' http://127.0.0.1:8080/orders
    shop -d '{"text":"closed on Monday"}' http://127.0.0.1:8080/announcements
"""

import os
import sys

from django.core.management import execute_from_command_line

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
    execute_from_command_line(sys.argv)

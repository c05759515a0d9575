"""A Django shop that tells its users about their orders through Herald.

Run it beside a Herald (`make run` prints the key and the secret):

    export HERALD_URL=http://127.0.0.1:8000 HERALD_API_KEY=… HERALD_JWT_SECRET=…
    pip install django pyjwt herald-client uvicorn
    python manage.py migrate
    python manage.py runserver 8080          # or: uvicorn shop.asgi:application --port 8080
"""

import os
import sys

from django.core.management import execute_from_command_line

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
    execute_from_command_line(sys.argv)

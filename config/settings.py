"""Django's settings, made from the checked environment. Nothing here reads a variable itself."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from psycopg.conninfo import conninfo_to_dict
from redis.backoff import NoBackoff
from redis.retry import Retry

from config.environment import load

BASE_DIR = Path(__file__).resolve().parent.parent
QUIVER = load()

SECRET_KEY = QUIVER.django_secret_key
DEBUG = QUIVER.debug
ALLOWED_HOSTS = QUIVER.allowed_hosts
ROOT_URLCONF = "config.urls"
USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en-us"
FORMAT_MODULE_PATH = ["config.formats"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
AUTH_USER_MODEL = "tenants.User"

INSTALLED_APPS = [
    "unfold.apps.BasicAppConfig",  # the site is our own
    "unfold.contrib.filters",
    "config.admin_app.QuiverAdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django_filters",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "django_celery_beat",
    "audit",
    "catalog",
    "tenants",
    "alerts",
    "billing",
    "embeddings",
    "config",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "config.middleware.RequestIdMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "config.middleware.ActorMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
STATIC_URL = "/static/"
WHITENOISE_USE_FINDERS = True  # serves from the packages: no collectstatic between a checkout and a page

_database = conninfo_to_dict(QUIVER.database_url)
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": _database.pop("host", "127.0.0.1"),
        "PORT": _database.pop("port", "5432"),
        "NAME": _database.pop("dbname", "quiver"),
        "USER": _database.pop("user", ""),
        "PASSWORD": _database.pop("password", ""),
        # Without both, a restart of the database meant 30 s hangs and then errors on stale connections.
        "CONN_HEALTH_CHECKS": True,
        # A pool that keeps trying waits longer each time, and in the end longer than the database was away.
        "OPTIONS": {
            "pool": {"min_size": 0, "max_size": 8, "timeout": 5, "reconnect_timeout": 0.5},
            "connect_timeout": 5,
            **_database,
        },
        "ATOMIC_REQUESTS": True,
    }
}
CACHES = {
    "default": {
        "BACKEND": "django_redis.cache.RedisCache",
        "LOCATION": QUIVER.redis_url,
        "OPTIONS": {
            "IGNORE_EXCEPTIONS": True,  # a cache that is gone is a slow page, not an error
            "SOCKET_CONNECT_TIMEOUT": 1,
            "SOCKET_TIMEOUT": 2,
            # redis-py would try three more times, seconds apart, while a request waits.
            "CONNECTION_POOL_KWARGS": {"retry": Retry(NoBackoff(), 1)},
        },
        "KEY_PREFIX": "django",
    }
}
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
        "CONFIG": {"hosts": [{"address": QUIVER.redis_url, "socket_connect_timeout": 2}], "prefix": "quiver:layer:"},
    }
}
DJANGO_REDIS_LOG_IGNORED_EXCEPTIONS = True
# Not `cached_db`: a session that was ended while Redis was gone would live on in it, and signing in would need it.
SESSION_ENGINE = "tenants.sessions"
SESSION_COOKIE_SAMESITE = "Lax"
CSRF_COOKIE_SAMESITE = "Lax"
if QUIVER.public_url.startswith("https://"):
    SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = True
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    SECURE_SSL_REDIRECT = True
    SECURE_HSTS_SECONDS = 365 * 24 * 3600
    # This host is ours to speak for; its subdomains and the browsers' own list are not.
    SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W021"]
    CSRF_TRUSTED_ORIGINS = [QUIVER.public_url.rstrip("/")]
AUTHENTICATION_BACKENDS = ["tenants.signing_in.Accounts"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]

LOGIN_URL = "admin:login"
PASSWORD_RESET_TIMEOUT = 24 * 3600

_mail = urlsplit(QUIVER.smtp_url)
EMAIL_HOST = _mail.hostname or ""
EMAIL_USE_SSL = _mail.scheme == "smtps"
EMAIL_PORT = _mail.port or (465 if EMAIL_USE_SSL else 25)
EMAIL_HOST_USER = unquote(_mail.username or "")
EMAIL_HOST_PASSWORD = unquote(_mail.password or "")
EMAIL_USE_TLS = not EMAIL_USE_SSL and (EMAIL_PORT == 587 or bool(EMAIL_HOST_USER))
EMAIL_TIMEOUT = 20
DEFAULT_FROM_EMAIL = SERVER_EMAIL = QUIVER.mail_from

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["tenants.authentication.ApiKeyAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["tenants.permissions.HasScope"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PAGINATION_CLASS": "catalog.rest.KeysetPagination",
    "DEFAULT_FILTER_BACKENDS": ["catalog.rest.StrictFilters"],
    "DEFAULT_SCHEMA_CLASS": "config.openapi.Schema",
    "EXCEPTION_HANDLER": "catalog.rest.problem_response",
    "COERCE_DECIMAL_TO_STRING": True,
    "TEST_REQUEST_DEFAULT_FORMAT": "json",
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Quiver",
    "DESCRIPTION": "A multi-tenant platform for embedding models.",
    "VERSION": "1",
    "OAS_VERSION": "3.1.0",
    "SERVE_PERMISSIONS": ["rest_framework.permissions.AllowAny"],
    "SERVE_AUTHENTICATION": [],
    "SERVE_INCLUDE_SCHEMA": False,
    "COMPONENT_SPLIT_REQUEST": True,  # write-only and read-only fields: what is sent is not what comes back
    "SCHEMA_PATH_PREFIX": "/api/v1",
    "ENUM_NAME_OVERRIDES": {
        "State": "catalog.models.State",
        "Tier": "catalog.models.Tier",
        "RunState": "catalog.models.DiscoveryRun.State",
        "ChangeState": "catalog.discovery_api.CHANGE_STATES",
        "CheckKind": "catalog.models.ModelCheck.Kind",
        "TenantModelState": "tenants.models.TenantModel.State",
        "LimitPeriod": "billing.models.Limit.Period",
        "UsagePeriod": "billing.api.usage_sums.PERIODS",
        "AlertState": "alerts.models.Alert.State",
        "AlertKind": "alerts.kinds.choices",
        "Severity": "alerts.models.SEVERITIES",
        "ChannelKind": "alerts.models.AlertChannel.Kind",
        "DeliveryState": "alerts.models.Delivery.State",
    },
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "config.openapi.describe_lists",
        "config.openapi.describe_errors",
        "config.data_plane_openapi.add_data_plane",
    ],
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
}

CELERY_BROKER_URL = QUIVER.celery_broker_url
CELERY_BEAT_SCHEDULER = "django_celery_beat.schedulers:DatabaseScheduler"
# How often is a setting, so beat writes it into its timetable at every start.
CELERY_BEAT_SCHEDULE = {
    "reconcile limits": {"task": "billing.tasks.reconcile_limits", "schedule": QUIVER.reconcile_seconds}
}
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_REJECT_ON_WORKER_LOST = True
CELERY_TASK_TIME_LIMIT = 600
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_TASK_IGNORE_RESULT = True
CELERY_TIMEZONE = "UTC"

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"json": {"()": "config.logs.JsonFormatter"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
    "root": {"handlers": ["stderr"], "level": QUIVER.log_level},
    "loggers": {
        # A 4xx is the caller's; the request line tells it already.
        "django.request": {"level": "ERROR"},
        # Tells the address of every socket, with the query in which somebody may have put a key.
        "uvicorn.error": {"level": "WARNING"},
    },
}

LOGIN_REDIRECT_URL = "admin:index"  # for who came to the sign-in page by itself

UNFOLD = {
    "SITE_TITLE": "Quiver",
    "SITE_HEADER": "Quiver",
    "SITE_SYMBOL": "conversion_path",
    "SITE_URL": None,
    "SHOW_HISTORY": "config.admin_site.shows_history",
    "SHOW_VIEW_ON_SITE": False,
    "ENVIRONMENT": "config.admin_site.environment",
    "DASHBOARD_CALLBACK": "config.dashboard.dashboard",
    "LOGIN": {"form": "tenants.signing_in.LoginForm"},
    "SIDEBAR": {"navigation": "config.admin_site.navigation"},
    "COLORS": {
        "primary": {
            "50": "oklch(97.1% .014 200)",
            "100": "oklch(94% .035 200)",
            "200": "oklch(88% .065 203)",
            "300": "oklch(80% .1 206)",
            "400": "oklch(70% .12 210)",
            "500": "oklch(60% .115 215)",
            "600": "oklch(51% .1 220)",
            "700": "oklch(44.5% .088 222)",
            "800": "oklch(38.5% .073 224)",
            "900": "oklch(34% .06 226)",
            "950": "oklch(26% .05 230)",
        },
    },
}

"""The two pages of the service; neither loads anything from elsewhere."""

import html

from hfgd.data.classes import ClassSet
from hfgd.export.html import assemble
from hfgd.serve.limits import Limits


def service_page(name: str, classes: ClassSet, limits: Limits) -> str:
    """The exported page, that asks this service instead of a model of its own."""
    return assemble(
        title=name,
        promise="Labels every pixel of an image. Images are sent to this service and not kept.",
        limit=f"At most {limits.pixels / 1e6:g} megapixels and {limits.bytes / 1e6:g} MB.",
        facts={
            "classes": classes.names,
            "palette": classes.palette,
            "about": {"Model": name, "Runs": "On this service."},
            "service": "predict",
            "maxPixels": limits.pixels,
        },
        policy="script-src {script}; connect-src 'self'",
    )


def docs_page(name: str, limits: Limits) -> str:
    """What may be asked, in words; the machine's form is /openapi.json."""
    return f"""<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">
<title>{html.escape(name)}: the service</title><h1>{html.escape(name)}: the service</h1>
<p>The machine's form of this: <a href="openapi.json">openapi.json</a>.</p>
<h2>POST /predict</h2>
<p>Body: an image file ({", ".join(limits.formats)}), as it is or as the field
<code>image</code> of multipart/form-data; at most {limits.bytes:,} bytes and {limits.pixels:,} pixels,
and an image must not need more than {limits.memory // 10**6:,} MB in this model.
<p>Accept: <code>image/png</code> gives the label map, whose pixel values are class numbers;
<code>image/png;profile=overlay</code> the overlay; <code>application/json</code> the shares.
<p>Refusals are JSON with <code>detail</code>: 400 no image, 401 no key, 403 and 421 a page of another
site, 406 no such answer, 408 a body that comes too slowly, 413 too large, 415 no image of these
formats, 422 a size that the model does not take, 429 more than {limits.queue} requests in hand,
503 while it stops, 504 after {limits.seconds:g} seconds.
<pre>curl -H "Accept: application/json" --data-binary @street.jpg ADDRESS/predict
curl -H "Accept: image/png" -F image=@street.jpg ADDRESS/predict -o labels.png</pre>
<h2>GET</h2><p><a href="./">/</a> a page for people, <a href="healthz">/healthz</a>,
<a href="metrics">/metrics</a> for Prometheus.
</html>"""

"""The look of the page: warm paper and ink, kiln red for the one thing to press, one hue a stage (static/page.css)."""

from __future__ import annotations

import gradio as gr
from gradio.themes.utils.colors import Color

SANS = ("Avenir Next", "Segoe UI Variable Text", "Segoe UI", "ui-sans-serif", "system-ui", "Helvetica Neue", "Arial")
MONO = ("ui-monospace", "SF Mono", "Cascadia Mono", "Liberation Mono", "Menlo", "monospace")

KILN = Color(
    name="kiln",
    c50="#fdf3ed", c100="#fae3d6", c200="#f4c4ab", c300="#ec9f7a", c400="#e37f52", c500="#d2602f",
    c600="#b84a1d", c700="#963b18", c800="#78321a", c900="#602b19", c950="#34130a",
)  # fmt: skip
STONE = Color(
    name="warm-stone",
    c50="#faf8f4", c100="#f4f0e9", c200="#e6dfd3", c300="#d3c9ba", c400="#a89d8d", c500="#7d7366",
    c600="#5f574d", c700="#463f38", c800="#2b2723", c900="#1f1c19", c950="#161412",
)  # fmt: skip


def studio_theme() -> gr.themes.Base:
    """Gradio's variables in the project's palette; everything else is in static/page.css."""
    theme = gr.themes.Base(
        primary_hue=KILN, secondary_hue=STONE, neutral_hue=STONE, font=list(SANS), font_mono=list(MONO),
        radius_size=gr.themes.sizes.radius_lg, spacing_size=gr.themes.sizes.spacing_md,
    )  # fmt: skip
    return theme.set(
        body_background_fill="*neutral_100",
        body_background_fill_dark="*neutral_950",
        body_text_color="*neutral_900",
        body_text_color_dark="*neutral_100",
        body_text_color_subdued="*neutral_500",
        body_text_color_subdued_dark="*neutral_400",
        block_background_fill="transparent",
        block_background_fill_dark="transparent",
        block_border_width="0px",
        block_shadow="none",
        block_padding="0px",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_label_border_width="0px",
        block_info_text_color="*neutral_500",
        block_info_text_color_dark="*neutral_400",
        block_title_text_weight="600",
        block_title_text_color="*neutral_800",
        block_title_text_color_dark="*neutral_200",
        input_background_fill="*neutral_50",
        input_background_fill_dark="*neutral_900",
        input_border_width="1px",
        input_border_color="*neutral_300",
        input_border_color_dark="*neutral_700",
        input_border_color_focus="*primary_500",
        input_border_color_focus_dark="*primary_400",
        border_color_primary="*neutral_200",
        border_color_primary_dark="*neutral_800",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_500",
        button_primary_background_fill_hover_dark="*primary_400",
        button_primary_text_color="#ffffff",
        button_primary_text_color_dark="*neutral_950",
        button_secondary_background_fill="*neutral_50",
        button_secondary_background_fill_hover="*neutral_200",
        button_secondary_background_fill_dark="*neutral_800",
        button_secondary_background_fill_hover_dark="*neutral_700",
        button_secondary_border_color="*neutral_300",
        button_secondary_border_color_dark="*neutral_700",
        button_border_width="1px",
        slider_color="*primary_600",
        slider_color_dark="*primary_400",
        panel_border_width="0px",
    )
